/// DeepSeek's architectures as blocks, and the files of Hugging Face that hold such models.
@NullMarked
package troika.model;

import org.jspecify.annotations.NullMarked;
