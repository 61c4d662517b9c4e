"""Which part of a graph of parts a node was, where the graph has been written out as operators.

`meta["component"]` is the name of a part, in graphs of parts and behind them; `meta["part"]` is
one of these words, written by `rewrite.parts.operators` alone and read where graphs are cut.
`meta["own"]` is the call by which surgery has put in what has been written out since.
"""

BODY = "body"  # a part of the model
MEMBER = "member"  # a head or an expert by itself
SUM = "sum"  # a sum of the residual stream, or of the heads of a layer
OWN = "own"  # what surgery has put in under a name, or among parts
WORDS = (BODY, MEMBER, SUM, OWN)
