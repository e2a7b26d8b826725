"""The traffic generator behind `tandem load`: open-loop streams and questions, measured from their intended
times. Needs the extra ``load``.
"""
