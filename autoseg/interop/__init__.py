"""Models of other tools in, ours out, and back: nnU-Net, ONNX, torch.export, MONAI bundles."""
