"""Commands and tasks in, events out: the domain, the step catalogue, and the shells round them."""
