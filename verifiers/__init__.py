"""The long parts of `verify`: mathematical answers and untrusted programs."""
