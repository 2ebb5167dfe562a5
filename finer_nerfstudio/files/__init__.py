"""Files on disk, whoever wrote them."""
