from ._chain import claimed_bits as claimed_bits
from ._code import decode as decode
from ._code import encode as encode
from ._file import HEADER_BYTES as HEADER_BYTES
from ._file import CodeError as CodeError
from ._inspect import CodeInfo as CodeInfo
from ._inspect import inspect as inspect
