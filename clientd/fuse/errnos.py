"""The one table from AFS codes to what programs see in errno."""

from __future__ import annotations

import errno
from typing import Final

from afs.errors import AfsCode

# Codes that are errno numbers themselves are not listed.
_ERRNO: Final = {
    AfsCode.RX_CALL_DEAD: errno.ETIMEDOUT,
    AfsCode.VRESTARTING: errno.EAGAIN,
    AfsCode.RXGEN_OPCODE: errno.EOPNOTSUPP,
    AfsCode.VSALVAGE: errno.EIO,
    # Only where the vnode, or its volume, is really gone: the kernel then looks its name up anew.
    AfsCode.VNOVNODE: errno.ESTALE,
    AfsCode.VNOVOL: errno.ESTALE,
    AfsCode.VVOLEXISTS: errno.EEXIST,
    AfsCode.VNOSERVICE: errno.EIO,
    AfsCode.VOFFLINE: errno.ENODEV,
    AfsCode.VONLINE: errno.EEXIST,
    AfsCode.VDISKFULL: errno.ENOSPC,
    AfsCode.VOVERQUOTA: errno.EDQUOT,
    AfsCode.VBUSY: errno.EAGAIN,
    AfsCode.VMOVED: errno.ESTALE,
    AfsCode.VIO: errno.EIO,
    AfsCode.VLIMIT: errno.EAGAIN,
    AfsCode.RXKADNOAUTH: errno.EACCES,
}


def errno_of(code: AfsCode) -> int:
    """The errno that stands for an AFS code. Source of most: OpenAFS `et_to_sys_error`."""
    return _ERRNO.get(code, int(code))
