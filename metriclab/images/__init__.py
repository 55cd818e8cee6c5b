"""Image files, from folders and tables to padded uint8 batches, decoded once. README.md beside this file says how."""
