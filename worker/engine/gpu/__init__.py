"""The model's own forward pass on a GPU, without what launching its operations costs."""
