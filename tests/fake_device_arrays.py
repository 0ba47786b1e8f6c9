"""Arrays that say they are on a GPU, and hand themselves over by DLPack's ABI."""

import ctypes

KINDS = {"int": 0, "uint": 1, "float": 2, "bfloat": 4, "complex": 5}

new_capsule = ctypes.pythonapi.PyCapsule_New
new_capsule.restype = ctypes.py_object
new_capsule.argtypes = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
capsule_name = ctypes.pythonapi.PyCapsule_GetName
capsule_name.restype = ctypes.c_char_p
capsule_name.argtypes = (ctypes.py_object,)


class Tensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


DELETER = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class ManagedTensor(ctypes.Structure):
    _fields_ = (("tensor", Tensor), ("context", ctypes.c_void_p), ("deleter", DELETER))


class VersionedTensor(ctypes.Structure):
    _fields_ = (
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("context", ctypes.c_void_p),
        ("deleter", DELETER),
        ("flags", ctypes.c_uint64),
        ("tensor", Tensor),
    )


class DeviceArray:
    """An array of nothing, at an address where no array is."""

    addresses = iter(range(2**30, 2**40, 2**20))

    def __init__(self, shape=(4,), dtype=("float", 32), *, device=(2, 0), strides=None, offset=0):
        self.address = next(self.addresses)
        self.shape, self.dtype, self.device, self.strides = shape, dtype, device, strides
        self.offset = offset
        self.lanes = 1
        self.device_in_capsule = device
        self.version = (1, 0)  # None: from before there were versions.
        self.read_only = False
        self.streams = []
        self.capsules = []
        self.deleted = 0
        self._kept = []

    def __dlpack_device__(self):
        return self.device

    def _delete(self, _):
        self.deleted += 1

    def __dlpack__(self, *, stream, **keywords):
        if self.version is None and keywords:
            raise TypeError("__dlpack__() got an unexpected keyword argument 'max_version'")
        self.streams.append(stream)
        extents = ctypes.c_int64 * len(self.shape)
        shape = extents(*self.shape)
        strides = None if self.strides is None else extents(*self.strides)
        kind, bits = self.dtype
        tensor = Tensor(
            self.address,
            *self.device_in_capsule,
            len(self.shape),
            KINDS[kind],
            bits,
            self.lanes,
            shape,
            strides,
            self.offset,
        )
        deleter = DELETER(self._delete)
        if self.version is None:
            managed, name = ManagedTensor(tensor, None, deleter), b"dltensor"
        else:
            managed = VersionedTensor(*self.version, None, deleter, int(self.read_only), tensor)
            name = b"dltensor_versioned"
        self._kept.append((shape, strides, deleter, managed, name))
        self.capsules.append(new_capsule(ctypes.addressof(managed), name, None))
        return self.capsules[-1]
