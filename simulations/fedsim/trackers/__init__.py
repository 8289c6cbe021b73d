"""Following a run in the tools that people use: JSON lines, TensorBoard, MLflow."""
