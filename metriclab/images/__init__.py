"""Image files, decoded once: from paths to padded uint8 batches. README.md beside this file says how and why."""
