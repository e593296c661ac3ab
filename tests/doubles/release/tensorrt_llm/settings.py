"""Classes that only keep what they are given: their parameters and defaults are the contract's."""

import double


def settings(name, error=TypeError):
    """A class decorator: fields and defaults of the entry ``name``; anything else is refused with ``error``."""

    def decorate(cls):
        parameters = [p for p in double.contract().entries[name].parameters if p.status == "ok"]

        def __init__(self, *positional, **keywords):
            names = [parameter.name for parameter in parameters]
            given = {**dict(zip(names, positional, strict=False)), **keywords}
            for parameter in parameters:
                setattr(self, parameter.name, given.get(parameter.name, parameter.default))
            self.check()

        cls.__init__ = __init__
        return double.entry(name, error)(cls)

    return decorate


class Settings:
    """Base of the classes."""

    def check(self):
        """Refuse values that the real class refuses."""

    def to_dict(self):
        return dict(vars(self))
