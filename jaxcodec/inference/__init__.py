"""Codecs on audio of any length, in programs of one shape."""
