"""The transmissible container: header, payloads, reader."""
