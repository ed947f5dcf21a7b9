"""Model families by name. A dotted path "your_module:YourModel" in a config works as well."""

MODELS = {
    "ngram": "jaxlm.models.ngram:NGram",
    "hmm": "jaxlm.models.hmm:HMM",
    "nplm": "jaxlm.models.neural_ngram:NeuralNGram",
    "rnn": "jaxlm.models.rnn:RNN",
    "vae": "jaxlm.models.vae:VAE",
    "gan": "jaxlm.models.gan:GAN",
    "gpt": "jaxlm.models.gpt:GPT",
    "bert": "jaxlm.models.bert:BERT",
    "t5": "jaxlm.models.t5:T5",
    "encoder_decoder": "jaxlm.models.encoder_decoder:EncoderDecoder",
    "rnn_seq2seq": "jaxlm.models.rnn_seq2seq:RNNSeq2Seq",
    "rnn_classifier": "jaxlm.models.rnn_classifier:RNNClassifier",
    "bag_of_embeddings": "jaxlm.models.bag_of_embeddings:BagOfEmbeddings",
    "glm": "jaxlm.models.glm:GLM",
    "vlm": "jaxlm.models.vlm:VLM",
    "word_vectors": "jaxlm.models.word_vectors:WordVectors",
}
