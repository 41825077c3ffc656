"""The command line: flags -> arguments -> one function of the library per mode."""
