from ._chain import HEADER_BYTES as HEADER_BYTES
from ._chain import CodeError as CodeError
from ._chain import claimed_bits as claimed_bits
from ._chain import decode as decode
from ._chain import encode as encode
