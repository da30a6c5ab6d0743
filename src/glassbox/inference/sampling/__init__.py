"""How the next token is chosen: parameters, filters, penalties, seeds."""
