"""Command line: python3 -m bodypart_training COMMAND …"""

import argparse
import importlib
import sys

# Modules are imported when their command runs: `picture` needs no PyTorch and starts in a fraction of a second.
COMMANDS = {
    "prepare": "read a folder of DICOM, PNG or JPEG files and a CSV into one cache for training",
    "train": "train the network that a configuration describes, or go on where a run stopped",
    "evaluate": "measure a run: figures with intervals, temperature, thresholds, mistakes",
    "export": "write model.onnx, model.yaml, figures.json and reference.json of a measured run",
    "picture": "write the network's input for files, to compare with the router's picture stage",
}


def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(prog="bodypart_training", description="Train and measure body part networks on X-rays.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    chosen = argv[0] if argv and argv[0] in COMMANDS else None
    for name, text in COMMANDS.items():
        command = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        if name == chosen:
            module = importlib.import_module(f".{name}", __package__)
            module.add_arguments(command)
            command.set_defaults(run=module.run)
    arguments = parser.parse_args(argv)
    return arguments.run(arguments)


if __name__ == "__main__":
    sys.exit(main())
