"""Tables that look like a source's: what kind each column is, what engines speak, and the engines.

`columns` and `engine` import neither torch nor pandas, so that the control plane can show what a column is taken for
before anything is fitted. The engines are named in `families`, and imported by whoever fits or samples.
"""
