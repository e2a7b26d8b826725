"""Pure. Which blocks of the whole stream a question gets to see: the index, the scores, the strategies."""
