"""Methods for detection transformers (DETRs): their queries and decoders."""
