"""The one exception that is meant for the person: what was wrong, the value, what to do."""


class UserError(Exception):
    """A mistake that the person can mend. The command line prints it as one clear line and exits with 2."""
