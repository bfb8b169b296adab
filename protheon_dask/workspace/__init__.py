"""Sources to chunk files: paths, identities, decompression, cutting, the quota."""
