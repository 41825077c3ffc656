"""Class names from a file, and those of ImageNet."""

import pytest

from efficientnetv2.common.errors import UserError
from efficientnetv2.datasets.labels import IMAGENET, read_labels


def test_imagenet_has_its_thousand_names_in_the_order_of_the_classes():
    names = read_labels(IMAGENET)
    assert len(names) == len(set(names)) == 1000
    known = {
        0: "tench",
        1: "goldfish",
        134: "crane bird",
        207: "golden retriever",
        281: "tabby",
        388: "giant panda",
        517: "crane",
        638: "maillot",
        639: "maillot tank suit",
        817: "sports car",
        954: "banana",
        999: "toilet tissue",
    }
    assert {index: names[index] for index in known} == known


@pytest.mark.parametrize(
    "content",
    [
        b"cat\nhot dog\ngr\xc3\xb6\xc3\x9fer\n",
        b"cat\r\nhot dog\r\ngr\xc3\xb6\xc3\x9fer",
        b"\xef\xbb\xbfcat \n hot dog\ngr\xc3\xb6\xc3\x9fer",
    ],
    ids=["unix", "windows", "byte-order-mark"],
)
def test_a_file_has_a_name_per_line(tmp_path, content):
    path = tmp_path / "labels.txt"
    path.write_bytes(content)
    assert read_labels(str(path)) == ("cat", "hot dog", "größer")


@pytest.mark.parametrize(
    "content, message",
    [
        (b"cat\n\ndog\n", "has no class name in line 2$"),
        (b"cat\ndog\n \n", "has no class name in line 3$"),
        (b"", "has no class name in line 1$"),
        (b"\xff\xfe\x00", "is no text in UTF-8; give a class name per line$"),
    ],
)
def test_a_bad_file_is_a_user_error(tmp_path, content, message):
    path = tmp_path / "labels.txt"
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"^{path} {message}"):
        read_labels(str(path))


def test_a_file_that_cannot_be_read_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match="^cannot read class names from .*none: No such file or d"):
        read_labels(str(tmp_path / "none"))
    with pytest.raises(UserError, match="^cannot read class names from .*: Is a directory$"):
        read_labels(str(tmp_path))
