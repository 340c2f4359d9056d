"""The command `python -m recurrent_attention`, the same as `recurrent-attention`."""

from recurrent_attention.cli import main

if __name__ == "__main__":
    main(prog_name="recurrent-attention")
