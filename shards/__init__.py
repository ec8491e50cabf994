"""The storage floor: raw corpora in, shards out, and the stream that reads them."""
