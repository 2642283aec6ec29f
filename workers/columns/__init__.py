"""Columns of a dataset under a plan: what a plan says of them, their order, and what samplers draw.

`kinds` is a plan as people write it, `order` finds which column needs which, `samplers` draws, `compiled` is one column
ready to be filled. Nothing here asks a model; `workers.dataset_items` does.
"""
