# A group of three machines from one launch template. Before the first `apply`, from a machine that has muster and the aws command:
#
#   muster token new | aws ssm put-parameter --name /muster/token --type SecureString --value file:///dev/stdin
#
# The token is in no variable, and so in no state of Terraform.
terraform {
  required_version = ">= 1.5"
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = "~> 5.0"
    }
  }
}

variable "image" {
  description = "AMI that carries muster, its unit and the aws command"
  type        = string
}

variable "subnets" {
  type = list(string)
}

variable "security_groups" {
  description = "Open among the machines: UDP 7846 and 8472, TCP 6443, 2379, 2380, 10250"
  type        = list(string)
}

variable "founding" {
  description = "auto for the first apply; never from then on"
  type        = string
  default     = "auto"
  validation {
    condition     = contains(["auto", "never"], var.founding)
    error_message = "founding is auto or never."
  }
}

data "aws_caller_identity" "this" {}
data "aws_region" "this" {}

resource "aws_iam_role" "muster" {
  name_prefix = "muster-"
  assume_role_policy = jsonencode({
    Version   = "2012-10-17"
    Statement = [{ Effect = "Allow", Action = "sts:AssumeRole", Principal = { Service = "ec2.amazonaws.com" } }]
  })
}

resource "aws_iam_role_policy" "token" {
  role = aws_iam_role.muster.id
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect   = "Allow"
      Action   = "ssm:GetParameter"
      Resource = "arn:aws:ssm:${data.aws_region.this.name}:${data.aws_caller_identity.this.account_id}:parameter/muster/token"
    }]
  })
}

# To find the machines of the own group. EC2 and autoscaling know no narrower resource for these calls.
resource "aws_iam_role_policy" "discovery" {
  role = aws_iam_role.muster.id
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect   = "Allow"
      Action   = ["ec2:DescribeInstances", "autoscaling:DescribeAutoScalingInstances", "autoscaling:DescribeAutoScalingGroups"]
      Resource = "*"
    }]
  })
}

resource "aws_iam_instance_profile" "muster" {
  name_prefix = "muster-"
  role        = aws_iam_role.muster.name
}

resource "aws_launch_template" "muster" {
  name_prefix            = "muster-"
  image_id               = var.image
  instance_type          = "t3.medium"
  vpc_security_group_ids = var.security_groups
  user_data              = base64encode(replace(file("${path.module}/user-data.yaml"), "servers = 3", "servers = 3\n      founding = \"${var.founding}\""))
  iam_instance_profile {
    arn = aws_iam_instance_profile.muster.arn
  }
  # One hop: pods, which are one hop further, do not reach the metadata and with it the role.
  metadata_options {
    http_endpoint               = "enabled"
    http_tokens                 = "required"
    http_put_response_hop_limit = 1
  }
}

resource "aws_autoscaling_group" "muster" {
  name_prefix         = "muster-"
  min_size            = 3
  max_size            = 3
  desired_capacity    = 3
  vpc_zone_identifier = var.subnets
  # EC2's own check: it sees a dead machine. A machine that waits for the others is well.
  health_check_type         = "EC2"
  health_check_grace_period = 600
  # A rebalancing starts the new machine and ends the old one by itself: a voter must not go like that.
  suspended_processes = ["AZRebalance"]
  launch_template {
    id      = aws_launch_template.muster.id
    version = aws_launch_template.muster.latest_version
  }
  # No lifecycle hook: nothing would complete it, and the machine would idle until its time is over. An instance that is ended is shut
  # down, and muster-leave.service takes it out of the cluster then: docs/clouds.md.
  # No instance_refresh here: it would begin by itself with each new template. It is started by hand, one machine at a time.
}
