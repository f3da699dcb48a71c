"""What the gateway asks of the read models: all SQL named, one file a subject.

Every query of a tenant's rows has the org in its WHERE, and the company too (`within`: None for the whole org).
"""
