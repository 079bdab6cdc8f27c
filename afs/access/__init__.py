"""Who may do what: callers, access lists, and what each method of each service asks for. Pure."""
