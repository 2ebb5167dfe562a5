"""What lies on disk, whoever wrote it."""
