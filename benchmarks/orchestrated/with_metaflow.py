"""The steps of plain_script.py as steps of a Metaflow flow; each is a process that continues the MLflow run."""

from metaflow import FlowSpec, Parameter, step


class Digits(FlowSpec):
    path = Parameter("path", help="path of the ONNX model to write")

    @step
    def start(self):
        from benchmarks import plain_script

        self.train_images, self.test_images, self.train_labels, self.test_labels = plain_script.load()
        self.next(self.train)

    @step
    def train(self):
        import mlflow

        from benchmarks import plain_script

        mlflow.set_experiment(plain_script.EXPERIMENT)
        with mlflow.start_run() as run:
            self.network = plain_script.train(self.train_images, self.train_labels)
        self.mlflow_run = run.info.run_id
        self.next(self.evaluate)

    @step
    def evaluate(self):
        import mlflow

        from benchmarks import plain_script

        with mlflow.start_run(self.mlflow_run):
            plain_script.evaluate(self.network, self.test_images, self.test_labels)
        self.next(self.export)

    @step
    def export(self):
        from benchmarks import plain_script

        plain_script.export(self.network, self.test_images, self.path)
        self.difference = plain_script.compare(self.network, self.test_images, self.path)
        self.next(self.end)

    @step
    def end(self):
        import mlflow

        from benchmarks import plain_script

        with mlflow.start_run(self.mlflow_run):
            mlflow.log_metric("onnx_max_abs_diff", self.difference)
            plain_script.register(self.path)


if __name__ == "__main__":
    Digits()
