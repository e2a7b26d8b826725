"""Pure. One table between typed errors and the codes that peers refuse each other with."""

from __future__ import annotations

from tandem.core.errors import (
    DataLost,
    DeadlineExceeded,
    Incompatible,
    Internal,
    InvalidInput,
    LimitExceeded,
    NotFound,
    PermissionRefused,
    TandemError,
    Unavailable,
    WrongState,
)
from tandem.core.transfer import Nack, NackCode

_ERROR_OF_CODE: dict[NackCode, type[TandemError]] = {
    NackCode.VERSION: Incompatible,
    NackCode.INCOMPAT: Incompatible,
    NackCode.UNAUTH: PermissionRefused,
    NackCode.BUSY: LimitExceeded,
    NackCode.DRAINING: Unavailable,
    NackCode.CORRUPT: DataLost,
    NackCode.NOT_FOUND: NotFound,
    NackCode.EXPIRED: DeadlineExceeded,
    NackCode.STALE: WrongState,
    NackCode.INVALID: InvalidInput,
    NackCode.INTERNAL: Internal,
}
_CODE_OF_ERROR: dict[type[TandemError], NackCode] = {
    error: code for code, error in reversed(_ERROR_OF_CODE.items()) if code is not NackCode.VERSION
}


def error_of(nack: Nack) -> TandemError:
    """The typed error that a refusal means to the one who asked."""
    return _ERROR_OF_CODE[nack.code](nack.message, retry_after_s=nack.retry_after_s)


def nack_of(error: TandemError, transfer_id: int = 0) -> Nack:
    """The refusal that tells the peer of an error of ours."""
    codes = (_CODE_OF_ERROR.get(cls) for cls in type(error).__mro__ if issubclass(cls, TandemError))
    code = next((code for code in codes if code is not None), NackCode.INTERNAL)
    return Nack(transfer_id=transfer_id, code=code, message=error.message, retry_after_s=error.retry_after_s)
