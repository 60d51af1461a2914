"""Export a trained detector to ONNX: python tools/export.py CONFIG CHECKPOINT --out FILE.onnx [--int8]."""

from lad.commands.export import main

if __name__ == "__main__":
    main()
