"""Linear systems of the method: the only place where anything is factored or solved."""
