"""Data sources: folders, CSV files, TFRecords, TensorFlow Datasets, the embedded shapes."""
