"""From shards to micro-batches: encoders, shapes, collation, read-ahead."""

from .batch import Encoded, Encoder, MicroBatch, Sample, collate, tag_matrix
from .source import Batches, BatchSource

__all__ = ["BatchSource", "Batches", "Encoded", "Encoder", "MicroBatch", "Sample", "collate", "tag_matrix"]
