"""The step catalogue: one file a step, each a pure function over a batch; `catalogue.STEPS` lists them."""
