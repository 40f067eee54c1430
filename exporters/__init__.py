"""Writers of results to disk: ONNX files and weights."""
