"""The error of a request that the runtime refused."""


class RequestError(RuntimeError):
    pass
