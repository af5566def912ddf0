"""VMambas as ONNX files: written with standard operators only, and run by onnxruntime."""
