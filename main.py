"""The command line, from a checkout: `python main.py --mode=…`."""

from efficientnetv2.cli.app import run

if __name__ == "__main__":
    run()
