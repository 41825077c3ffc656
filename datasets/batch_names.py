"""Which examples a training batch is of."""

from datasets.record_stream import numbered_records
from datasets.sources import Source
from hparams import Stage


def names_of_batch(source: Source, stage: Stage, step: int) -> list[str]:
    """Returns the names of the examples of one step of a stage, in the order of the batch's rows.

    A name is a path, or a file and the number of a record in it.
    """
    first = stage.records_before(step)
    records = numbered_records(source, first, first + stage.batch_size)
    names = records.map(lambda number, *record: source.name_of(*record))
    return [name.decode("utf-8", "replace") for name in names.as_numpy_iterator()]
