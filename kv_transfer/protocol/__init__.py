"""Pure. What a link decides: messages and the time go in, actions come out. No I/O, no threads, no torch."""
