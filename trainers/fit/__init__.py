"""Fits the weights of cotlens/detect on the labels in `labels`, and measures them on people's labels held back."""
