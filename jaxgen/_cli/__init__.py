"""The command line: files in, a model as one file, and files out."""
