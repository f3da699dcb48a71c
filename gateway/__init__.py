"""HTTP in and out: who asks, is it well formed, ask a service or run a query, answer."""
