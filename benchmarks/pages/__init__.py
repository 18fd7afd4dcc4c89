"""Tables of the documentation from the files in benchmarks/results: `python -m benchmarks.pages`.

A page below docs/ says where a table goes by the line `<!-- results: NAME -->`; what follows it until
`<!-- end of results -->` is written anew. `NAME` is a function in `measured.py` or `compared.py`, or a file in
benchmarks/results/recorded.
"""
