"""Command line: each mode passes its flags as arguments to one library function."""
