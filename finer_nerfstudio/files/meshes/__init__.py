"""Reading files of meshes and point clouds: one module a format, all giving a :class:`~.raw.RawShape`."""
