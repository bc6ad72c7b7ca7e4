package troika.model;

import java.lang.foreign.MemorySegment;
import troika.tensor.DType;
import troika.tensor.Shape;

/// A tensor of a mapped safetensors file.
///
/// @param name   its name in the file
/// @param dtype  its dtype
/// @param shape  its shape
/// @param data   its bytes, little-endian, in row-major order: read-only, not necessarily aligned (use the `_UNALIGNED`
/// layouts), valid until the file is closed
public record SafetensorsTensor(String name, DType dtype, Shape shape, MemorySegment data) {}
