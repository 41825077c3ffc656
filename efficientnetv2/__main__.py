"""`python -m efficientnetv2`."""

from efficientnetv2.cli.app import run

if __name__ == "__main__":
    run()
